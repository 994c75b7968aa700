SELECT json_array_elements_text(CAST(:statuses AS json))
