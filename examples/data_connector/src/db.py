"""Sessions of the database that DATABASE_URL names: in the environment, else in the file .env beside this folder."""

import os
from functools import lru_cache
from pathlib import Path

from dotenv import dotenv_values
from sqlalchemy import Engine, create_engine
from sqlalchemy.orm import Session

_DOTENV = Path(__file__).parent.parent / ".env"


@lru_cache
def get_engine() -> Engine:
    """One engine a process; it opens connections when they are needed, and looks first whether one is still alive."""
    url = os.environ.get("DATABASE_URL") or dotenv_values(_DOTENV, interpolate=False).get("DATABASE_URL")
    if not url:
        raise RuntimeError(f"DATABASE_URL is set neither in the environment nor in {_DOTENV.name}")
    return create_engine(url, pool_pre_ping=True)


def get_db() -> Session:
    """A session; use it in a `with`, so that its connection goes back."""
    return Session(get_engine())
