-- Answers keys and records of all tasks, by turns.
return answer('ok', redis.call('HGETALL', key('tasks')))
