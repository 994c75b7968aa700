SELECT job FROM elements WHERE chunk = :chunk AND submission = :submission
