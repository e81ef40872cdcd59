-- Looks whether a queue can be worked on, and sweeps out consumers that are long gone: every worker has a name of its own.
--
-- KEYS: queue. ARGV: group, and for how long a consumer is gone, in ms. Returns the names of other groups.
--
-- A consumer with messages is never removed: its messages would be out of everybody's reach.

return run(function()
    local queue, group, gone = KEYS[1], ARGV[1], tonumber(ARGV[2])
    local _, others = require_queue(queue, group)
    for _, flat in ipairs(call('XINFO', 'CONSUMERS', queue, group)) do
        local consumer = table_of(flat)
        if consumer.pending == 0 and consumer.idle > gone then
            call('XGROUP', 'DELCONSUMER', queue, group, consumer.name)
        end
    end
    return others
end)
