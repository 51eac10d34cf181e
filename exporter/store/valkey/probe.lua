-- ARGV[3]: as much as a batch writes; answers how much of it can be read back.
redis.call('SET', key('probed'), ARGV[3])
return answer('ok', redis.call('STRLEN', key('probed')))
