AND s.id IN (@given_ids)
