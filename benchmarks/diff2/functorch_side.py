"""Gradients of single records by torch.func.vmap, clipped and summed: what ghost norms replace."""

from ours import difference, serve

if __name__ == "__main__":
    serve(lambda request: difference({**request, "path_taken": "functorch"}))
