SELECT c.id FROM chunks AS c WHERE c.id = :chunk @for_update
