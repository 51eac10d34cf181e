-- ARGV: what is here, empty for nothing: the id of a store, or the token of a load; and the token of a load that is
-- to take its place, empty for none. Nothing is done if something else is here by now.
local id, loading = unpack(redis.call('HMGET', KEYS[1], 'id', 'loading'))
if loading and loading == ARGV[2] then
  return answer('ok')  -- tried again because its answer was lost
end
if (loading or id or '') ~= ARGV[1] then
  return answer('other')
end
for _, number in ipairs(redis.call('HVALS', key('ledgers'))) do
  redis.call('UNLINK', key('ledger:' .. number))
end
for name in string.gmatch(
  'meta ledgers seen tasks places due state:0 state:1 state:2 state:3 sources held bodies last done probed ' ..
  'changed forgotten posted', '%S+'
) do
  redis.call('UNLINK', key(name))
end
if ARGV[2] ~= '' then
  redis.call('HSET', KEYS[1], 'loading', ARGV[2])
end
return answer('ok')
