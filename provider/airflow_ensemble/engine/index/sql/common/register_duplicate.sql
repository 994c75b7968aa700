SELECT id, MIN(digest), MAX(digest) FROM stage GROUP BY id HAVING COUNT(*) > 1 ORDER BY MIN(n) LIMIT 1
