"""The dominant eigenpair of a real symmetric matrix, as a third-party Surefoot card."""
