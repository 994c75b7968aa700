SELECT id FROM workers WHERE expires <= @now ORDER BY id @skip_locked
