#ifndef DAVIT_SANDBOX_MANAGER_FIXTURE_H_
#define DAVIT_SANDBOX_MANAGER_FIXTURE_H_

#include <fstream>
#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <utility>

#include "gtest/gtest.h"
#include "sandbox/testing_node.h"

namespace davit::sandbox::testing {

inline std::string ReadAll(const std::string& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

// What the manager's tests share: a node, and a look at what it has left on the machine.
class ManagerFixture : public ::testing::Test {
 protected:
  ManagerFixture() : node_("sandbox/supervisor/davit-pod", "sandbox/supervisor/davit-init") {}

  // Starts the manager. What is there afterwards is what a test may leave.
  void Start() {
    const absl::Status started = node_.Restart();
    ASSERT_TRUE(started.ok()) << started;
    before_ = node_.Census();
  }
  // Nothing of the test's pods is left on the machine.
  void ExpectNothingLeft() {
    // Layers are unlinked in the background, descriptors closed by the loop when it comes round.
    std::map<std::string, int> more;
    EXPECT_TRUE(Node::Await([&] {
      more = node_.More(before_);
      return more.empty();
    })) << ::testing::PrintToString(more);
    EXPECT_EQ(node_.images().pins(), 0);
  }
  std::string MustRun(PodSpec spec) {
    auto id = node_->RunPod(std::move(spec));
    EXPECT_TRUE(id.ok()) << id.status();
    return id.value_or("");
  }
  std::string MustRun(ContainerSpec spec) {
    auto id = node_.Run(std::move(spec));
    EXPECT_TRUE(id.ok()) << id.status();
    return id.value_or("");
  }
  std::shared_ptr<const ContainerView> View(const std::string& id) {
    auto view = node_->FindContainer(id);
    EXPECT_TRUE(view.ok()) << view.status();
    return view.ok() ? *view : std::make_shared<const ContainerView>();
  }

  Node node_;
  std::map<std::string, int> before_;
};

}  // namespace davit::sandbox::testing

#endif  // DAVIT_SANDBOX_MANAGER_FIXTURE_H_
