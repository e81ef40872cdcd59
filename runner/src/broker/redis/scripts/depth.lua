-- Counts the messages of a queue.
--
-- KEYS: queue, delayed, and the inbox if there is one. ARGV: group, lease in ms.
-- Returns how many are ready, delayed and running.
--
-- What is left unread is seen by looking for it: neither a trimmed message that is still with a consumer nor a message that
-- was acknowledged without being deleted can make a queue look empty, or never empty. A lease that has ended makes a message
-- ready, as it does for `take`.

return run(function()
    local queue, delayed, inbox = KEYS[1], KEYS[2], KEYS[3]
    local group, lease = ARGV[1], ARGV[2]
    local ours = require_queue(queue, group)
    local pending = ours.pending
    local ended = #call('XPENDING', queue, group, 'IDLE', lease, '-', '+', 100000)
    local unread = 0
    if #call('XRANGE', queue, '(' .. ours['last-delivered-id'], '+', 'COUNT', 1) > 0 then
        unread = math.max(call('XLEN', queue) - pending, 1)
    end
    local due = call('ZCOUNT', delayed, '-inf', now())
    local waiting = inbox and call('LLEN', inbox) or 0
    return {unread + ended + due + waiting, call('ZCARD', delayed) - due, pending - ended}
end)
