// The other end of a guest agent's socket, in this process.
// Threads: one of its own, which calls the test's function.
#pragma once

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>

#include "tests/support/catch.h"

namespace vsnap {

// Takes connections one after the other; what it says to each line it hears is up to the test. "": it hangs
// up.
class AgentServer {
 public:
  using Answer = std::function<std::string(const nlohmann::json& question)>;
  explicit AgentServer(Answer answer) : answer_(std::move(answer)) {
    directory_ = "/tmp/vsnap-agent-XXXXXX";
    REQUIRE(::mkdtemp(directory_.data()) != nullptr);
    path = directory_ + "/s";
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path.copy(address.sun_path, path.size());
    listener_ = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    REQUIRE(::bind(listener_, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
    REQUIRE(::listen(listener_, 1) == 0);
    thread_ = std::thread([this] { serve(); });
  }
  ~AgentServer() {
    ::shutdown(listener_, SHUT_RDWR);
    thread_.join();
    ::close(listener_);
    ::unlink(path.c_str());
    ::rmdir(directory_.c_str());
  }
  // As an agent answers guest-sync-delimited, and `other` all else.
  static std::string synced(const nlohmann::json& question, const std::string& other) {
    if (question["execute"] != "guest-sync-delimited") return other;
    return "\xff" + nlohmann::json{{"return", question["arguments"]["id"]}}.dump() + "\n";
  }
  std::string path;
  std::atomic<int> connections{0};

 private:
  void serve() {
    for (;;) {
      const int connection = ::accept(listener_, nullptr, nullptr);
      if (connection < 0) return;
      ++connections;
      talk(connection);
      ::close(connection);
    }
  }
  void talk(int connection) {
    std::string heard;
    char byte = 0;
    while (::read(connection, &byte, 1) == 1) {
      if (byte == '\xff') continue;
      if (byte != '\n') {
        heard += byte;
        continue;
      }
      const std::string reply = answer_(nlohmann::json::parse(heard));
      heard.clear();
      if (reply.empty() || ::send(connection, reply.data(), reply.size(), MSG_NOSIGNAL) < 0) return;
    }
  }

  Answer answer_;
  std::string directory_;
  int listener_ = -1;
  std::thread thread_;
};

} // namespace vsnap
