# Asks Sidekiq's worker for jobs, at once, in bulk and for later, and checks what came of them.
require_relative "jobs"
require "sidekiq/api"

def now = Process.clock_gettime(Process::CLOCK_MONOTONIC)

def until_so(what, patience: 90)
  deadline = now + patience
  until yield
    raise "#{what}: not within #{patience} seconds" if now > deadline
    sleep 0.05
  end
end

def sum(name) = Sidekiq.redis { |redis| redis.hget("sums", name) }

def same(what, want, got)
  raise "#{what}: #{got.inspect}, not #{want.inspect}" unless want == got
end

until_so("the worker is there") { Sidekiq::ProcessSet.new.size == 1 }

20.times { |n| Add.perform_async("one-#{n}", n, 1) }
Sidekiq::Client.push_bulk("class" => Add, "args" => (0...100).map { |n| ["bulk-#{n}", n, n] })
Urgent.perform_async("first")
Add.perform_in(2, "later", 20, 22)
Stumbles.perform_async("stumbled")
Hopeless.perform_async

20.times { |n| until_so("job one-#{n}") { sum("one-#{n}") == (n + 1).to_s } }
100.times { |n| until_so("job bulk-#{n}") { sum("bulk-#{n}") == (2 * n).to_s } }
until_so("the urgent job") { Sidekiq.redis { |redis| redis.lrange("order", 0, -1) } == ["first"] }
until_so("the job for later") { sum("later") == "42" }
until_so("the job that is tried again") { sum("stumbled") == "2" }

# The worker adds to the counts now and then, not with each job.
until_so("the count of what was done") { Sidekiq::Stats.new.processed == 20 + 100 + 1 + 1 + 2 + 1 }
statistics = Sidekiq::Stats.new
same("failures", 2, statistics.failed)
same("jobs left", 0, statistics.enqueued)
same("jobs to be tried again", 0, statistics.retry_size)
same("queues", %w[critical default], Sidekiq::Queue.all.map(&:name).sort)

# What waits in a queue that nobody serves can be looked at, found and taken out.
ids = 3.times.map { |n| Sidekiq::Client.push("class" => Add, "queue" => "idle", "args" => ["idle-#{n}", n, n]) }
idle = Sidekiq::Queue.new("idle")
same("jobs in the idle queue", 3, idle.size)
idle.find_job(ids[1]).delete
same("what is left", [ids[0], ids[2]].sort, idle.map(&:jid).sort)
idle.clear
same("the idle queue, cleared", 0, Sidekiq::Queue.new("idle").size)

later = Sidekiq::ScheduledSet.new
id = Add.perform_in(3600, "tomorrow", 1, 1)
same("scheduled", [id], later.map(&:jid))
later.find_job(id).reschedule(Time.now.to_f - 1)
until_so("the job that was brought forward") { sum("tomorrow") == "2" }
