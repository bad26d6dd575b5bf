#include "images/store/image_index.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "images/reference.h"

namespace davit::images {

std::shared_ptr<const Image> ImageIndex::ById(const std::string& id) const {
  const auto it = by_id_.find(id);
  return it == by_id_.end() ? nullptr : it->second;
}

std::shared_ptr<const Image> ImageIndex::Find(absl::string_view text) const {
  if (auto image = ById(std::string(text))) return image;  // of whatever algorithm
  const std::string digits = IdDigits(text, 4);
  if (!digits.empty()) {
    if (auto image = ById(absl::StrCat("sha256:", digits))) return image;
  }
  if (!absl::StartsWith(text, "sha256:")) {
    const auto reference = ParseReference(text);
    if (reference.ok()) {
      const auto it =
          names_.find(reference->digest.empty() ? reference->Tagged()
                                                : reference->WithDigest(reference->digest));
      if (it != names_.end()) return ById(it->second);
    }
  }
  if (digits.empty()) return nullptr;
  const std::string prefix = absl::StrCat("sha256:", digits);
  const auto first = by_id_.lower_bound(prefix);
  if (first == by_id_.end() || !absl::StartsWith(first->first, prefix)) return nullptr;
  const auto second = std::next(first);
  if (second != by_id_.end() && absl::StartsWith(second->first, prefix)) return nullptr;
  return first->second;
}

std::vector<std::shared_ptr<const Image>> ImageIndex::List() const {
  std::vector<std::shared_ptr<const Image>> list;
  list.reserve(by_id_.size());
  for (const auto& [id, image] : by_id_) list.push_back(image);
  return list;
}

void ImageIndex::DropName(const std::string& name, const std::string& except_id) {
  const auto it = names_.find(name);
  if (it == names_.end() || it->second == except_id) return;
  auto& holder = by_id_[it->second];
  auto changed = std::make_shared<Image>(*holder);
  std::erase(changed->repo_tags, name);
  std::erase(changed->repo_digests, name);
  holder = std::move(changed);
  names_.erase(it);
}

void ImageIndex::Put(Image image) {
  for (const std::vector<std::string>* names : {&image.repo_tags, &image.repo_digests}) {
    for (const std::string& name : *names) {
      DropName(name, image.id);
      names_[name] = image.id;
    }
  }
  std::string id = image.id;
  by_id_[std::move(id)] = std::make_shared<const Image>(std::move(image));
}

void ImageIndex::Remove(const std::string& id) {
  std::erase_if(names_, [&id](const auto& entry) { return entry.second == id; });
  by_id_.erase(id);
}

}  // namespace davit::images
