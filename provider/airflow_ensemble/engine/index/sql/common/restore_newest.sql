SELECT COALESCE(MAX(generation), 1) FROM stage_finished
