-- ARGV[3]: a digest. Answers whether that body is in the quarantine.
return answer('ok', redis.call('HEXISTS', key('held'), ARGV[3]))
