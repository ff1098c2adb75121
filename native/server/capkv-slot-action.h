#pragma once

#include "capkv.h"
#include "json.h"

#include <string>
#include <vector>

// what a request wants of one slot's cache
struct capkv_slot_action {
    enum kind {
        NONE,
        KEPT,
        PIN,
        UNPIN,
    };

    kind what = NONE;

    // of the last two: positions [start, stop)
    int32_t start = 0;
    int32_t stop  = 0;
};

// the number of a slot in a path; throws std::invalid_argument if it is none
int capkv_parse_slot(const std::string & text);

// the body of a request to pin or to unpin; throws std::invalid_argument naming what is allowed
capkv_slot_action capkv_parse_pin(const std::string & action, const std::string & body);

// the object that the action answers with; throws std::invalid_argument if the cache refuses it. Reads and changes the context
//   pieces: of each token of the slot's text
//   pos:    of each token of the slot's text
common_json capkv_run_slot_action(
        llama_context * ctx, llama_seq_id id, const capkv_slot_action & action,
        const std::vector<std::string> & pieces, const std::vector<llama_pos> & pos);

// the bytes of each piece, but a character that is cut between several is in the last of them
std::vector<std::string> capkv_whole_characters(const std::vector<std::string> & pieces);
