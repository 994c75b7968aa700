DROP TABLE IF EXISTS stage_finished
