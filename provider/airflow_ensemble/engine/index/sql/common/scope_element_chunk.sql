AND e.chunk = :chunk
