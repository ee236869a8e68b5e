/* Makes a run repeatable: "random" bytes come from the seed, and the system's clocks stand still.
 *
 * Loaded before everything else into the process of one run (LD_PRELOAD). Simulated time is tokio's and does not come from here;
 * what still reads the system's clock must only not bring anything from outside into the run. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <time.h>

static uint64_t state;
static int seeded;

static uint64_t next(void)
{
    if (!seeded) {
        const char *seed = getenv("ASSENT_SIMULATION_SEED");
        state = seed ? strtoull(seed, NULL, 10) : 0;
        seeded = 1;
    }
    /* SplitMix64 (Steele, Lea, Flood 2014). */
    uint64_t z = (state += 0x9e3779b97f4a7c15ULL);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    return z ^ (z >> 31);
}

ssize_t getrandom(void *to, size_t length, unsigned flags)
{
    (void)flags;
    for (size_t at = 0; at < length; at += 8) {
        uint64_t bytes = next();
        memcpy((char *)to + at, &bytes, length - at < 8 ? length - at : 8);
    }
    return (ssize_t)length;
}

int getentropy(void *to, size_t length)
{
    getrandom(to, length, 0);
    return 0;
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    /* 14 November 2023, a second and more past every zero. */
    now->tv_sec = clock == CLOCK_REALTIME ? 1700000000 : 1000;
    now->tv_nsec = 0;
    return 0;
}
