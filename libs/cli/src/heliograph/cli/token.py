"""`heliograph token`: tokens and keys for development."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from heliograph.cli.keys import Algorithm, SigningKey, write_private
from heliograph.cli.options import Json, parse_duration_s, usage
from heliograph.cli.output import fail, note, print_json, print_table
from heliograph.client import HeliographError

app = typer.Typer(invoke_without_command=True)

Scope = Annotated[
    list[str] | None,
    typer.Option(
        "--scope", metavar="SCOPE", help="What it allows, such as publish:planner:* ; repeat it, or give several with "
        "spaces between. Operations: publish, subscribe, history, presence, serve, admin.", show_default=False,
    ),
]  # fmt: skip


@app.callback()
def token(
    context: typer.Context,
    key: Annotated[
        Path | None,
        typer.Option(envvar="HELIOGRAPH_KEY", help="The private key: a JWK (see `keygen`) or PEM.", show_default=False),
    ] = None,
    tenant: Annotated[str | None, typer.Option(envvar="HELIOGRAPH_TENANT", help="Whose token.", show_default=False)] = (
        None
    ),
    subject: Annotated[str, typer.Option(help="Who it speaks for.")] = "developer",
    scope: Scope = None,
    ttl: Annotated[str, typer.Option(help="How long it lasts: 15m, 1h, 7d.")] = "1h",
    audience: Annotated[str, typer.Option(envvar="HELIOGRAPH_JWT_AUDIENCE", help="The claim `aud`.")] = "heliograph",
    issuer: Annotated[str | None, typer.Option(help="The claim `iss`, where the tenant asks for one.")] = None,
    kid: Annotated[str | None, typer.Option(help="The key's id; a PEM file has none of its own.")] = None,
    json: Json = False,
) -> None:
    """Mint a token for development, or make keys.

    Prints nothing but the token, so that a variable can take it: export HELIOGRAPH_TOKEN=$(heliograph token …).
    """
    if context.invoked_subcommand is not None:
        return
    try:
        if key is None or tenant is None or not scope:
            missing = [name for name, given in (("--key", key), ("--tenant", tenant), ("--scope", scope)) if not given]
            raise usage(f"missing: {', '.join(missing)}", "`heliograph token keygen dev` makes a key: dev.jwk.")
        scopes = [part for each in scope for part in each.split()]
        ttl_s = parse_duration_s(ttl)
        minted = SigningKey.read(key, kid).mint(tenant, subject, scopes, ttl_s, audience, issuer)
    except HeliographError as error:
        fail(error, json=json)
    if json:
        print_json({"token": minted, "tenant": tenant, "subject": subject, "scopes": scopes, "ttl_s": ttl_s})
    else:
        sys.stdout.write(minted + "\n")


@app.command()
def keygen(
    prefix: Annotated[Path, typer.Argument(metavar="PREFIX", help="PREFIX.jwk and PREFIX.jwks.json are written.")],
    algorithm: Annotated[Algorithm, typer.Option("--alg", help="Signature algorithm.")] = Algorithm.EDDSA,
    kid: Annotated[str | None, typer.Option(help="The key's id. Default: random.", show_default=False)] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there.")] = False,
    json: Json = False,
) -> None:
    """Make a key pair: the private key as a JWK, the public one as a JWK set for the tenant's `auth.jwks`.

    Both files are readable by their owner alone.
    """
    private, public = prefix.with_name(prefix.name + ".jwk"), prefix.with_name(prefix.name + ".jwks.json")
    key = SigningKey.generate(algorithm, kid)
    try:
        present = [str(path) for path in (private, public) if path.exists() and not force]
        if present:
            raise FileExistsError(f"{', '.join(present)} is there already")
        write_private(private, key.private_jwk(), replace=force)
        write_private(public, key.jwks(), replace=force)
    except OSError as error:
        hint = "--force replaces it; tokens signed with the old key stay good while a tenant has it."
        fail(usage(str(error), hint if isinstance(error, FileExistsError) else ""), json=json)
    if json:
        print_json({"private": str(private), "public": str(public), "kid": key.key_id, "alg": algorithm.value})
        return
    print_table("", ("file", "what"), [(str(private), "private key: keep it"), (str(public), "public: give it away")])
    note(f"put the content of {public} into the tenant file as auth.jwks, then: heliograph tenant apply FILE")
