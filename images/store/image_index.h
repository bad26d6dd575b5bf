#ifndef DAVIT_IMAGES_STORE_IMAGE_INDEX_H_
#define DAVIT_IMAGES_STORE_IMAGE_INDEX_H_

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "images/image.h"

namespace davit::images {

// The images in memory, to find and list them. A value that is never changed once it is shared: a
// change is a changed copy (of pointers), so that readers never wait.
class ImageIndex {
 public:
  // By id (with or without "sha256:"), unique id prefix of at least 4 digits, or any form of
  // reference. Null if there is none, or if a prefix fits several.
  std::shared_ptr<const Image> Find(absl::string_view reference) const;
  std::shared_ptr<const Image> ById(const std::string& id) const;
  std::vector<std::shared_ptr<const Image>> List() const;

  // Adds or replaces the image; names that it has are taken from all others.
  void Put(Image image);
  void Remove(const std::string& id);

 private:
  void DropName(const std::string& name, const std::string& except_id);

  std::map<std::string, std::shared_ptr<const Image>> by_id_;
  std::map<std::string, std::string> names_;  // tag or digest form -> id
};

}  // namespace davit::images

#endif  // DAVIT_IMAGES_STORE_IMAGE_INDEX_H_
