# Jobs for Sidekiq, loaded by its worker and by the program that asks for them.
require "sidekiq"

Sidekiq.strict_args!
server = { url: ENV.fetch("FRAMEWORKS_URL") }
Sidekiq.configure_server { |config| config.redis = server }
Sidekiq.configure_client { |config| config.redis = server }

class Add
  include Sidekiq::Worker
  sidekiq_options queue: "default"

  def perform(name, left, right)
    Sidekiq.redis { |redis| redis.hset("sums", name, left + right) }
  end
end

class Urgent
  include Sidekiq::Worker
  sidekiq_options queue: "critical"

  def perform(name)
    Sidekiq.redis { |redis| redis.rpush("order", name) }
  end
end

# Fails the first time; Sidekiq keeps it in a sorted set and tries again when its time has come.
class Stumbles
  include Sidekiq::Worker
  sidekiq_options retry: 3
  sidekiq_retry_in { 1 }

  def perform(name)
    tries = Sidekiq.redis { |redis| redis.incr("tries:#{name}") }
    raise "not yet" if tries == 1
    Sidekiq.redis { |redis| redis.hset("sums", name, tries) }
  end
end

class Hopeless
  include Sidekiq::Worker
  sidekiq_options retry: 0

  def perform
    raise "never"
  end
end
