SELECT generation, opened FROM batches WHERE id = :batch @for_update
