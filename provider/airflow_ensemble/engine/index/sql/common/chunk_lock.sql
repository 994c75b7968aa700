SELECT c.submission FROM chunks AS c WHERE c.id = :chunk @for_update
