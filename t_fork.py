import os, time
from tests.spawn import on_ranks
def f():
    t=os.times(); return (t[0]+t[1], os.getpid())
if __name__=="__main__":
    import sys
    for i in range(3):
        t=time.time(); print(on_ranks(2,f), time.time()-t)
