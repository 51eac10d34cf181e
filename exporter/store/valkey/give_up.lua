-- ARGV: a move. What has arrived of it is dropped.
if redis.call('HGET', KEYS[1], 'origin') == ARGV[1] then
  for _, name in ipairs(names(at)) do
    redis.call('UNLINK', name)
  end
end
return answer('ok')
