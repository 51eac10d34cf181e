-- What has been told apart so far, and is never forgotten: label sets with their numbers, and label values.
return answer('ok', redis.call('HGETALL', key('ledgers')), redis.call('SMEMBERS', key('seen')))
