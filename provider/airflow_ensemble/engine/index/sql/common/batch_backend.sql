UPDATE batches SET backend = :backend WHERE id = :batch
