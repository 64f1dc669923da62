/* C11's cnd_timedwait by way of pthread_cond_timedwait.

   libfaketime (0.9.10) fakes timespec_get and pthread_cond_timedwait, but not cnd_timedwait: whoever asks the one for a
   deadline and gives it to the other, as librdkafka does, would wait an hour longer under a clock an hour ahead, and
   not at all under one that is behind. No real clock does that. In glibc both are the same objects. */

#include <errno.h>
#include <pthread.h>
#include <threads.h>

int cnd_timedwait(cnd_t *condition, mtx_t *mutex, const struct timespec *until)
{
    switch (pthread_cond_timedwait((pthread_cond_t *)condition, (pthread_mutex_t *)mutex, until)) {
    case 0:
        return thrd_success;
    case ETIMEDOUT:
        return thrd_timedout;
    default:
        return thrd_error;
    }
}
