AND s.status IN (@given_statuses)
