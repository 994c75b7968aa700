SELECT name FROM ensembles WHERE output = :output AND name <> :name LIMIT 1
