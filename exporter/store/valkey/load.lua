-- ARGV: the token of a load, then commands: of each how many words it has, and the words. They are run as long as
-- that load goes on. The last of them ends it: if the answer to that was lost, there is nothing left to do.
local id, loading = unpack(redis.call('HMGET', KEYS[1], 'id', 'loading'))
if loading ~= ARGV[1] then
  return answer(not loading and id == ARGV[1] and 'ok' or 'other')
end
local at = 2
while at <= #ARGV do
  local words = tonumber(ARGV[at])
  redis.call(unpack(ARGV, at + 1, at + words))
  at = at + words + 1
end
return answer('ok')
