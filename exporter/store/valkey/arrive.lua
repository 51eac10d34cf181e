-- ARGV: for how many seconds it may stay untouched, then the fields of meta. Begins a store that arrives.
for _, name in ipairs(names(at)) do
  redis.call('UNLINK', name)
end
for index = 2, #ARGV, 2 do
  redis.call('HSET', KEYS[1], ARGV[index], ARGV[index + 1])
end
redis.call('EXPIRE', KEYS[1], ARGV[1])
return answer('ok')
