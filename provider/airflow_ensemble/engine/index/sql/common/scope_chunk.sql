AND s.chunk = :scope_chunk
