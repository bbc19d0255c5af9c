/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "daemon/api.h"

#include <stdlib.h>

struct api {
        struct api_config config;
        struct store *store;     /* borrowed */
        struct event_base *base; /* borrowed */
};

int api_new(const struct api_config *config, struct store *store, struct event_base *base, struct api **ret,
            struct error *error) {
        struct api *api = calloc(1, sizeof(*api));

        if (!api)
                return error_set(error, ERROR_INTERNAL, "Out of memory.");
        api->config = *config;
        api->store = store;
        api->base = base;
        *ret = api;
        return 0;
}

void api_free(struct api *api) {
        free(api);
}

const struct server_method *api_methods(void) {
        static const struct server_method methods[] = {
                {},
        };

        return methods;
}
