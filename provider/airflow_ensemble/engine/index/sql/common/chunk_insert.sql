INSERT INTO chunks (id, batch, number, size, resource_class, submission, state)
VALUES (:id, :batch, :number, :size, :resource_class, 1, 'open')
