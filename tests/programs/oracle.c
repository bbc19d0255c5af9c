/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tests/programs/oracle.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* The finalizer of splitmix64: neighbours in, unrelated numbers out. */
static uint64_t mix(uint64_t x) {
        x += UINT64_C(0x9e3779b97f4a7c15);
        x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
        x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
        return x ^ (x >> 31);
}

int oracle_layout_add(struct oracle_layout *layout, uint64_t pages, uint64_t data_pages) {
        struct oracle_region *region = &layout->regions[layout->n_regions];

        if (data_pages == 0)
                data_pages = pages;
        if (layout->n_regions == ORACLE_REGIONS_MAX || pages == 0 || data_pages > pages)
                return -EINVAL;

        *region = (struct oracle_region){
                .pages = pages,
                .data_pages = data_pages,
                .stride = pages / data_pages,
        };
        layout->n_regions++;
        layout->data_pages += data_pages;
        return 0;
}

struct oracle_place oracle_layout_place(const struct oracle_layout *layout, uint64_t sequence) {
        uint64_t random = mix(layout->seed ^ mix(sequence));
        struct oracle_place place = {
                .data_page = (random >> 9) % layout->data_pages,
                .word = random % ORACLE_PAGE_WORDS,
        };

        while (place.data_page >= layout->regions[place.region].data_pages)
                place.data_page -= layout->regions[place.region++].data_pages;
        return place;
}

uint64_t oracle_layout_initial(const struct oracle_layout *layout, struct oracle_place place) {
        uint64_t key = ((uint64_t) place.region << 56) + place.data_page * ORACLE_PAGE_WORDS + place.word;

        return layout->fill == ORACLE_FILL_ZERO ? 0 : mix(~layout->seed ^ key) | ORACLE_PATTERN_BIT;
}

void oracle_layout_fill(const struct oracle_layout *layout, unsigned region, uint64_t data_page, uint64_t *page) {
        struct oracle_place place = { .region = region, .data_page = data_page };

        for (place.word = 0; place.word < ORACLE_PAGE_WORDS; place.word++)
                page[place.word] = oracle_layout_initial(layout, place);
}

uint64_t oracle_place_offset(const struct oracle_layout *layout, struct oracle_place place) {
        return place.data_page * layout->regions[place.region].stride * ORACLE_PAGE_BYTES +
               place.word * sizeof(uint64_t);
}

int oracle_state_init(struct oracle_state *state, const struct oracle_layout *layout) {
        struct oracle_state made = { .layout = layout };

        for (unsigned r = 0; r < layout->n_regions; r++) {
                made.pages[r] = malloc(layout->regions[r].data_pages * ORACLE_PAGE_BYTES);
                if (!made.pages[r]) {
                        oracle_state_deinit(&made);
                        return -ENOMEM;
                }
                for (uint64_t page = 0; page < layout->regions[r].data_pages; page++)
                        oracle_layout_fill(layout, r, page, made.pages[r] + page * ORACLE_PAGE_WORDS);
        }
        *state = made;
        return 0;
}

void oracle_state_deinit(struct oracle_state *state) {
        for (unsigned r = 0; r < ORACLE_REGIONS_MAX; r++)
                free(state->pages[r]);
        *state = (struct oracle_state){ 0 };
}

void oracle_state_advance(struct oracle_state *state, uint64_t sequence) {
        while (state->sequence < sequence) {
                struct oracle_place place = oracle_layout_place(state->layout, ++state->sequence);

                state->pages[place.region][place.data_page * ORACLE_PAGE_WORDS + place.word] = state->sequence;
        }
}

const uint64_t *oracle_state_page(const struct oracle_state *state, unsigned region, uint64_t data_page) {
        return state->pages[region] + data_page * ORACLE_PAGE_WORDS;
}
