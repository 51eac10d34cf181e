-- ARGV: the id of a store, the mark that it has, empty for none, and the one that it gets. Nothing is done if it
-- has another by now; to do it again does no harm.
local id, mark = unpack(redis.call('HMGET', KEYS[1], 'id', 'moved'))
if id ~= ARGV[1] or ((mark or '') ~= ARGV[2] and (mark or '') ~= ARGV[3]) then
  return answer('conflict')
end
if ARGV[3] == '' then
  redis.call('HDEL', KEYS[1], 'moved')
else
  redis.call('HSET', KEYS[1], 'moved', ARGV[3])
end
return answer('ok')
