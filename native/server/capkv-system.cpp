#include "capkv-system.h"

#include "capkv-props.h"

#include <algorithm>

std::string capkv_system_text(
        const common_chat_templates * tmpls, const common_chat_templates_inputs & inputs, const std::string & prompt, const json & n_keep) {
    if (!capkv_keeps_system(n_keep)) {
        return "";
    }

    auto other = inputs;

    const auto user = std::find_if(other.messages.begin(), other.messages.end(), [](const auto & msg) { return msg.role == "user"; });
    if (user == other.messages.end()) {
        return "";
    }
    const std::string said = user->content.empty() && !user->content_parts.empty() ? user->content_parts[0].text : user->content;
    const size_t first = said.find_first_not_of(" \t\r\n");

    user->content = first != std::string::npos && said[first] == 'A' ? "B" : "A";
    user->content_parts.clear();
    other.messages.erase(user + 1, other.messages.end());

    try {
        const auto changed = common_chat_templates_apply(tmpls, other).prompt;
        const size_t n = std::min(changed.size(), prompt.size());

        return prompt.substr(0, std::mismatch(prompt.begin(), prompt.begin() + n, changed.begin()).first - prompt.begin());
    } catch (const std::exception &) {
        return ""; // a template may refuse such a message
    }
}

int32_t capkv_count_system(const llama_vocab * vocab, const json & data, const server_tokens & tokens) {
    const json text = json_value(data, "kv_system", json(nullptr));
    if (!text.is_string()) {
        return 0;
    }

    const auto start = common_tokenize(vocab, text.get<std::string>(), /*add_special =*/ true, /*parse_special =*/ true);

    size_t n = 0;
    while (n < std::min(start.size(), tokens.size()) && start[n] == tokens[n]) {
        n++;
    }
    return n;
}
