-- ARGV[3...]: a time, and how many at most. Answers keys of tasks that are due by then, longest first.
return answer('ok', redis.call('ZRANGEBYSCORE', key('due'), '-inf', ARGV[3], 'LIMIT', 0, ARGV[4]))
