UPDATE ensembles SET generation = :generation, next_position = :next_position
WHERE number = :ensemble
