INSERT INTO ensembles
    (name, settings_hash, output, recipe, max_attempts, max_interruptions, created)
VALUES (:name, :settings_hash, :output, :recipe, :max_attempts, :max_interruptions, @now)
ON CONFLICT (name, settings_hash) DO UPDATE SET
    output = excluded.output,
    recipe = excluded.recipe,
    max_attempts = excluded.max_attempts,
    max_interruptions = excluded.max_interruptions
WHERE ensembles.recipe <> excluded.recipe
