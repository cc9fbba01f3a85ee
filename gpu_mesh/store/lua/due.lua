-- Whether a periodic entry that is due is to be sent: for what publish.lua does not take.
--
-- ARGV[1]  beat        ARGV[2]  entry        ARGV[3]  when it was due, s
-- returns  1 when it is; it then counts as sent
--@include _due

return is_to_be_sent(ARGV[1], ARGV[2], ARGV[3]) and 1 or 0
