"""What the operator relies on of an API server: run against the fake here, against a real one in tests/kubernetes."""

import contextlib
from collections.abc import Iterator

import pytest

from heliograph.operator.kube import CONFIG_MAPS, Kube, KubeError


@contextlib.contextmanager
def refused(code: str) -> Iterator[None]:
    with pytest.raises(KubeError) as caught:
        yield
    assert caught.value.code == code


class KubeContract:
    """Subclasses give `kube` and `namespace`."""

    @pytest.fixture
    async def kube(self) -> Kube:
        raise NotImplementedError

    @pytest.fixture
    def namespace(self) -> str:
        raise NotImplementedError

    async def test_what_was_made_can_be_read_and_listed(self, kube: Kube, namespace: str) -> None:
        made = await kube.create(
            CONFIG_MAPS, namespace, {"metadata": {"name": "one", "labels": {"kept": "a"}}, "data": {"a": "1"}}
        )
        assert await kube.get(CONFIG_MAPS, namespace, "one") == made
        assert made["metadata"]["uid"]
        assert (made["kind"], made["apiVersion"]) == ("ConfigMap", "v1")
        await kube.create(CONFIG_MAPS, namespace, {"metadata": {"name": "two"}})
        names = [one["metadata"]["name"] for one in await kube.all_of(CONFIG_MAPS, namespace, labels="kept")]
        assert names == ["one"]
        (listed,) = await kube.all_of(CONFIG_MAPS, namespace, labels="kept in (a,b)")
        assert listed["data"] == {"a": "1"}
        assert (listed["kind"], listed["apiVersion"]) == ("ConfigMap", "v1")
        assert await kube.all_of(CONFIG_MAPS, namespace, labels="kept=b") == []
        everywhere = [one["metadata"]["uid"] for one in await kube.all_of(CONFIG_MAPS, labels="kept=a")]
        assert made["metadata"]["uid"] in everywhere

    async def test_what_is_not_there_is_none_and_deleting_it_is_no_error(self, kube: Kube, namespace: str) -> None:
        assert await kube.get(CONFIG_MAPS, namespace, "none") is None
        await kube.delete(CONFIG_MAPS, namespace, "none")
        with refused("kube_not_found"):
            await kube.patch(CONFIG_MAPS, namespace, "none", {"data": {"a": "1"}})

    async def test_a_name_is_taken_once(self, kube: Kube, namespace: str) -> None:
        await kube.create(CONFIG_MAPS, namespace, {"metadata": {"name": "taken"}})
        with refused("kube_exists"):
            await kube.create(CONFIG_MAPS, namespace, {"metadata": {"name": "taken"}})

    async def test_a_patch_merges_and_none_removes(self, kube: Kube, namespace: str) -> None:
        await kube.create(CONFIG_MAPS, namespace, {"metadata": {"name": "one"}, "data": {"a": "1", "b": "2"}})
        patched = await kube.patch(CONFIG_MAPS, namespace, "one", {"data": {"a": None, "c": "3"}})
        assert patched["data"] == {"b": "2", "c": "3"}

    async def test_a_patch_that_changes_nothing_leaves_the_version(self, kube: Kube, namespace: str) -> None:
        made = await kube.create(CONFIG_MAPS, namespace, {"metadata": {"name": "one"}, "data": {"a": "1"}})
        patched = await kube.patch(CONFIG_MAPS, namespace, "one", {"data": {"a": "1"}})
        assert patched["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]

    async def test_a_patch_of_an_older_version_is_a_conflict(self, kube: Kube, namespace: str) -> None:
        made = await kube.create(CONFIG_MAPS, namespace, {"metadata": {"name": "one"}})
        version = made["metadata"]["resourceVersion"]
        changed = await kube.patch(CONFIG_MAPS, namespace, "one", {"data": {"a": "1"}})
        with refused("kube_conflict"):
            await kube.patch(
                CONFIG_MAPS, namespace, "one", {"metadata": {"resourceVersion": version}, "data": {"a": "2"}}
            )
        newest = {"metadata": {"resourceVersion": changed["metadata"]["resourceVersion"]}, "data": {"a": "3"}}
        assert (await kube.patch(CONFIG_MAPS, namespace, "one", newest))["data"] == {"a": "3"}

    async def test_what_has_a_finalizer_is_gone_once_it_is_taken_off(self, kube: Kube, namespace: str) -> None:
        held = {"metadata": {"name": "held", "finalizers": ["heliograph.dev/test"]}}
        await kube.create(CONFIG_MAPS, namespace, held)
        await kube.delete(CONFIG_MAPS, namespace, "held")
        found = await kube.get(CONFIG_MAPS, namespace, "held")
        assert found is not None
        assert found["metadata"]["deletionTimestamp"]
        await kube.patch(CONFIG_MAPS, namespace, "held", {"metadata": {"finalizers": []}})
        assert await kube.get(CONFIG_MAPS, namespace, "held") is None

    async def test_an_object_that_was_made_again_is_not_deleted_for_the_former_one(
        self, kube: Kube, namespace: str
    ) -> None:
        made = await kube.create(CONFIG_MAPS, namespace, {"metadata": {"name": "one"}})
        await kube.delete(CONFIG_MAPS, namespace, "one")
        await kube.create(CONFIG_MAPS, namespace, {"metadata": {"name": "one"}})
        with refused("kube_conflict"):
            await kube.delete(CONFIG_MAPS, namespace, "one", uid=made["metadata"]["uid"])
        assert await kube.get(CONFIG_MAPS, namespace, "one") is not None
