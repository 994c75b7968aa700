SELECT json_array_elements_text(CAST(:ids AS json))
