UPDATE batches SET scope = :scope WHERE id = :batch
