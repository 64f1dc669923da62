"""The CustomResourceDefinition of Tenant, made from the tenant record's own types and docstrings.

What the record has, the resource has; only what Kubernetes adds is written here: where keys come from, what becomes of
the data, access for consumers of its own, and the rules of what can't be changed.
"""

from typing import Any

from heliograph.core.sessions import LABEL_PATTERN
from heliograph.operator.kube import GROUP, TENANTS, VERSION
from heliograph.operator.schema import Schema, conditions, definition, structural
from heliograph.protocol.schemas import tenant_schema
from heliograph.protocol.tenants import MAX_EARLIER_PARTITIONS, MAX_REVOCATIONS, RETENTION_CLASSES, TOPIC_CONFIG

MAX_AGENT_TYPES = 64
"""With a log of their own: each is a topic, and routers read them all."""

WATCHED_LABEL = f"{GROUP}/watched"
"""On a Secret or ConfigMap that a Tenant refers to: the operator uses no others, so a Tenant can't make it read one
that was not meant for it."""

CONDITIONS = {
    "Ready": "clients can connect, publish and read history.",
    "TopicsReady": "its topics are there and as the spec says.",
    "QuotasApplied": "services have been given its record: limits, quotas, suspension.",
    "KeysReady": "there are keys, and they are the newest.",
    "AccessReady": "its own Kafka consumers have their user and rights (where `spec.access` asks for it).",
    "Paused": f"it is left alone, as the annotation `{GROUP}/paused` says.",
}


def tenant_crd() -> Schema:
    """charts/heliograph/crds/tenants.heliograph.dev.yaml."""
    return definition(
        group=GROUP,
        version=VERSION,
        kind=TENANTS.kind,
        plural=TENANTS.plural,
        short_names=["hgt"],
        description=(
            "A customer of Heliograph: its Kafka topics, signing keys, quotas and limits. The operator makes the topics"
            " and hands the record to the services, which obey a change within seconds; `status.conditions` says how"
            " far it is. Deleting it keeps the messages unless `spec.reclaimPolicy` says otherwise."
        ),
        spec=_spec(),
        status=_status(),
        columns=[
            ("Tenant", "string", ".spec.tenant", "The tenant's name."),
            ("Ready", "string", '.status.conditions[?(@.type=="Ready")].status', "Whether clients can use it."),
            ("Reason", "string", '.status.conditions[?(@.type=="Ready")].reason', "Why, in one word."),
            ("Connections", "integer", ".status.connections", "About how many are open."),
            ("Messages", "integer", ".status.messages", "About how many are kept."),
        ],
        wide_columns=[
            ("Topics", "string", '.status.conditions[?(@.type=="TopicsReady")].status', "Whether topics are right."),
            ("Keys", "string", '.status.conditions[?(@.type=="KeysReady")].status', "Whether keys are the newest."),
            ("Suspended", "boolean", ".spec.suspended", "Whether it is switched off."),
            ("Isolation", "string", ".spec.isolation", "Whose topics its messages are in."),
            ("Message", "string", '.status.conditions[?(@.type=="Ready")].message', "Why, for people."),
        ],
    )


def _spec() -> Schema:
    document = tenant_schema()
    spec = structural(document, document["$defs"])
    spec["description"] = (
        "What the tenant may do and how its messages are kept: what `heliograph tenant apply` takes, too."
    )
    members = spec["properties"]
    _guard_identity(members)
    _topics(members)
    _auth(members["auth"])
    members["allowedOrigins"]["items"]["maxLength"] = 300
    members["reclaimPolicy"] = {
        "type": "string",
        "enum": ["Retain", "Delete"],
        "default": "Retain",
        "description": (
            "What becomes of the messages when this resource is deleted. `Retain`: they stay in Kafka, and another"
            " Tenant of this name in this namespace has them again. `Delete`: topics, records and hot windows are"
            " removed, for good. Of shared topics nothing is removed before its retention is over."
        ),
    }
    members["access"] = _access()
    spec["x-kubernetes-validations"] = _spec_rules()
    return spec


def _guard_identity(members: dict[str, Any]) -> None:
    members["tenant"] |= {
        "maxLength": 63,
        "pattern": f"^{LABEL_PATTERN}$",
        "x-kubernetes-validations": [
            _rule("self == oldSelf", "the tenant's name can't be changed: sessions, topics and tokens carry it")
        ],
    }
    members["isolation"] |= {
        "default": "dedicated",
        "x-kubernetes-validations": [
            _rule("self == oldSelf", "isolation can't be changed: messages don't move between topics")
        ],
    }


def _topics(members: dict[str, Any]) -> None:
    topics = members["topics"]
    topics["default"] = {}
    for name in ("log", "deferred"):
        topics["properties"][name]["default"] = {}
    telemetry = topics["properties"]["telemetry"]
    telemetry["description"] = "Messages of the class telemetry. Leave it out and they are delivered, but not logged."
    telemetry["properties"]["logged"] = {
        "type": "boolean",
        "default": True,
        "description": "False stops the logging of telemetry; what was logged stays until its retention is over.",
    }
    topics["x-kubernetes-validations"] = [
        _rule(
            "!has(oldSelf.telemetry) || has(self.telemetry)",
            "telemetry can't be taken away again, its topic would be forgotten: set telemetry.logged to false",
        )
    ]
    agent_types = members["agentTypes"]
    agent_types |= {
        "maxProperties": MAX_AGENT_TYPES,
        "default": {},
        "x-kubernetes-validations": [
            _rule(
                "oldSelf.all(name, name in self)",
                "an agent type can't be taken away again: its sessions' messages are in its topic and don't move",
            ),
            _rule(
                "self.all(name, size(name) <= 63 && name.matches('^[a-z0-9]([a-z0-9-]*[a-z0-9])?$'))",
                "names of agent types are DNS labels: at most 63 of a-z, 0-9 and -, no - at the ends",
            ),
        ],
    }
    every = [topics["properties"][name] for name in ("log", "deferred", "telemetry")]
    for topic in (*every, agent_types["additionalProperties"]["properties"]["log"]):
        partitions = topic["properties"]["partitions"]
        partitions |= {
            "default": 6,
            "x-kubernetes-validations": [
                _rule("self >= oldSelf", "partitions may grow, never shrink: messages in them would be lost")
            ],
        }
        topic["properties"]["earlierPartitions"]["maxItems"] = MAX_EARLIER_PARTITIONS
        config = topic["properties"]["config"]
        config.pop("properties", None)
        names = ", ".join(f"'{name}'" for name in TOPIC_CONFIG)
        config |= {
            "maxProperties": len(TOPIC_CONFIG),
            "additionalProperties": {"type": "string", "maxLength": 32},
            "x-kubernetes-validations": [
                _rule(f"self.all(name, name in [{names}])", f"config takes only {', '.join(TOPIC_CONFIG)}")
            ],
        }


def _auth(auth: dict[str, Any]) -> None:
    members = auth["properties"]
    keys = {
        "type": "array",
        "maxItems": 64,
        "description": "The keys.",
        "items": {
            "type": "object",
            "description": "One key (RFC 7517, 4), with the members that its kind has.",
            "required": ["kid", "kty"],
            "x-kubernetes-preserve-unknown-fields": True,
            "properties": {
                "kid": {"type": "string", "maxLength": 256, "description": "Its id, which tokens name."},
                "kty": {"type": "string", "maxLength": 16, "description": "Its kind: OKP, EC or RSA."},
                "d": {"type": "string", "maxLength": 8192, "description": "Only private keys have it: never give one."},
            },
            "x-kubernetes-validations": [
                _rule("!has(self.d)", "this is a private key: give the public one, and replace this one by a new one")
            ],
        },
    }
    members["jwks"] = {
        "type": "object",
        "description": "A JWK set (RFC 7517) of public keys, spelled out here.",
        "properties": {"keys": keys},
    }
    members["jwksFrom"] = {
        "type": "object",
        "description": "Where the JWK set is, instead: exactly one of these.",
        "properties": {
            "secretKeyRef": _reference("Secret"),
            "configMapKeyRef": _reference("ConfigMap"),
            "url": {
                "type": "string",
                "maxLength": 2_048,
                "pattern": "^https://",
                "description": (
                    "An https address that the operator fetches, and fetches again every few minutes. Its host must be"
                    " among those that the operator's settings allow, and at a public address."
                ),
            },
        },
        "x-kubernetes-validations": [
            _rule(
                "[has(self.secretKeyRef), has(self.configMapKeyRef), has(self.url)].filter(given, given).size() == 1",
                "give exactly one of secretKeyRef, configMapKeyRef and url",
            )
        ],
    }
    members["revoked"]["maxItems"] = MAX_REVOCATIONS
    members["revoked"]["items"]["x-kubernetes-validations"] = [
        _rule(
            "has(self.jti) || has(self.subject) || has(self.before)",
            "an entry says jti, subject or before: an empty one would lock everybody out",
        )
    ]
    auth["x-kubernetes-validations"] = [
        _rule("!(has(self.jwks) && has(self.jwksFrom))", "give either jwks or jwksFrom, not both")
    ]


def _reference(kind: str) -> Schema:
    return {
        "type": "object",
        "description": (
            f'A key of a {kind} in this namespace that has the label `{WATCHED_LABEL}: "true"`. A change of it is taken'
            " up at once."
        ),
        "required": ["name", "key"],
        "properties": {
            "name": {"type": "string", "minLength": 1, "maxLength": 253, "description": f"The {kind}'s name."},
            "key": {"type": "string", "minLength": 1, "maxLength": 253, "description": "Which of its keys."},
        },
    }


def _access() -> Schema:
    return {
        "type": "object",
        "description": (
            "Lets the tenant's own Kafka consumers read its topics: a SCRAM-SHA-512 user, and rights to read its topics"
            " and to use consumer groups whose names begin with `<topic prefix>.<tenant>.`. Leave it out, and both are"
            " taken away. `status.access.user` has the user's name. Needs brokers with an authorizer."
        ),
        "required": ["passwordFrom"],
        "properties": {
            "passwordFrom": {
                "type": "object",
                "description": "Where the user's password is.",
                "required": ["secretKeyRef"],
                "properties": {"secretKeyRef": _reference("Secret")},
            }
        },
    }


def _spec_rules() -> list[Schema]:
    longest = max(RETENTION_CLASSES.values())
    topics = ("self.topics.log", "self.topics.deferred")
    rules = []
    for topic in topics:
        field = topic.removeprefix("self.")
        rules += _shared_rules(topic, field, longest, "")
    rules += _shared_rules("self.topics.telemetry", "topics.telemetry", longest, "!has(self.topics.telemetry) || ")
    rules.append(
        _rule(
            "!has(self.access) || self.isolation == 'dedicated'",
            "access needs isolation dedicated: shared topics hold the messages of others",
        )
    )
    return rules


def _shared_rules(topic: str, field: str, longest: int, unless: str) -> list[Schema]:
    unshared = f"self.isolation != 'shared' || {unless}"
    return [
        _rule(
            f"{unshared}!has({topic}.retentionSeconds) || {topic}.retentionSeconds <= {longest}",
            f"{field}.retentionSeconds is at most {longest} where isolation is shared",
        ),
        _rule(
            f"{unshared}((!has({topic}.retentionBytes) || {topic}.retentionBytes == -1) && !has({topic}.config))",
            f"{field}: retentionBytes and config can't be set where isolation is shared, they would be everybody's",
        ),
    ]


def _status() -> Schema:
    text: Schema = {"type": "string"}
    count: Schema = {"type": "integer", "format": "int64"}
    return {
        "type": "object",
        "description": "How it is, as the operator last found it.",
        "properties": {
            "observedGeneration": {**count, "description": "The `metadata.generation` that this status is of."},
            "tenant": {**text, "description": "The tenant that this resource owns; another resource can't have it."},
            "conditions": conditions(CONDITIONS),
            "topics": {
                "type": "array",
                "description": "Its topics.",
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["name"],
                "items": {
                    "type": "object",
                    "required": ["name", "partitions"],
                    "properties": {
                        "name": {**text, "description": "The topic's name in Kafka."},
                        "partitions": {**count, "description": "How many it has."},
                        "earlierPartitions": {
                            "type": "array",
                            "description": (
                                "How many it had when sessions were begun in it: kept, so that they are found even if"
                                " the metadata store lost what it knew."
                            ),
                            "items": dict(count),
                        },
                        "messages": {
                            **count,
                            "description": "About how many it keeps, to two digits; brought up to date now and then.",
                        },
                    },
                },
            },
            "messages": {**count, "description": "About how many messages are kept in all its topics."},
            "connections": {**count, "description": "About how many connections it has, to two digits."},
            "keys": {
                "type": "array",
                "description": "Ids of the keys that tokens are verified with.",
                "items": dict(text),
            },
            "access": {
                "type": "object",
                "description": "What its own consumers need, where `spec.access` asks for it.",
                "properties": {
                    "user": {**text, "description": "The SCRAM user."},
                    "secretVersion": {**text, "description": "The version of the Secret that its password is of."},
                },
            },
        },
    }


def _rule(rule: str, message: str) -> Schema:
    return {"rule": rule, "message": message}
