"""A message as the worker's main process handles it."""

from celery.worker.request import Request
from kombu.transport.virtual import QoS


class ThreadRequest(Request):
    """A request that gives its place in the worker back, even if the broker does not hear that it is done.

    Celery logs such an error and goes on, but kombu's Redis transport counts the message as running from then on: a
    worker with one process takes no other, ever. The broker delivers it again after its visibility timeout.
    """

    def acknowledge(self) -> None:
        """Tell the broker that the message is done; if it cannot be told, the worker goes on all the same."""
        try:
            super().acknowledge()
        finally:
            self._give_place_back()

    def reject(self, requeue: bool = False) -> None:
        """Tell the broker that the message is not wanted, or wanted by another."""
        try:
            super().reject(requeue)
        finally:
            self._give_place_back()

    def _give_place_back(self) -> None:
        unheard = not self.message.acknowledged
        qos = getattr(self.message.channel, "qos", None)
        if unheard and isinstance(qos, QoS):
            QoS.ack(qos, self.message.delivery_tag)  # the base's, which only counts
