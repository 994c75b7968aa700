INSERT INTO jobs (name, batch, number, place, folder, created)
VALUES (:name, :batch, :number, :place, :folder, @now)
