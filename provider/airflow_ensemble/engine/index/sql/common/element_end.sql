UPDATE elements SET ending = :ending, detail = :detail
WHERE chunk = :chunk AND submission = :submission AND ending IS NULL
