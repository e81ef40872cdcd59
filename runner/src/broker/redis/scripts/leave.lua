-- Removes a consumer, unless it still has messages: those would be out of everybody's reach.
--
-- KEYS: queue. ARGV: group, consumer.

return run(function()
    local queue, group, consumer = KEYS[1], ARGV[1], ARGV[2]
    if #call('XPENDING', queue, group, '-', '+', 1, consumer) == 0 then
        call('XGROUP', 'DELCONSUMER', queue, group, consumer)
    end
    return redis.status_reply('OK')
end)
